"""CPE, Concept Pinpoint Eraser: concepts taken out of text-to-image models by gates on the text."""
