"""What all trainings of the network have for settings; free of torch."""

from pydantic import Field

from cpe.terms.settings import Settings

MOST_STEPS = 50_000  # published: 100 to 1,000
MOST_PICTURES = 1000  # of one step, all in memory together; published: 1 to 8


class TuningConfig(Settings):
    """How a network is trained, and how the untouched one draws for it.

    Attributes:
        steps: of a list of up to `batch` concepts; one of up to twice as many takes twice the steps, and so on, so that
            each concept is seen at least as often as there are steps.
        batch: pictures of a step; a concept comes again once all the others have come.
        learning_rate: of AdamW.
        weight_decay: what a step takes off every weight, as a share times the learning rate.
        gradient_clip: largest norm of the gradient of all weights together; None lets it be.
        sampling_steps: denoising steps (DDIM) of a picture that is drawn for the training.
        guidance_scale: classifier-free guidance of such a picture; 1 switches it off.
    """

    steps: int = Field(200, ge=1, le=MOST_STEPS)
    batch: int = Field(1, ge=1, le=MOST_PICTURES)
    learning_rate: float = Field(5e-5, gt=0)
    weight_decay: float = Field(0.0, ge=0, lt=1)
    gradient_clip: float | None = Field(None, gt=0)
    sampling_steps: int = Field(50, ge=1, le=1000)
    guidance_scale: float = Field(3.0, ge=0)

    def steps_in_all(self, concepts: int) -> int:
        """Returns the steps of a training of so many concepts."""
        return self.steps * -(-concepts // self.batch)
