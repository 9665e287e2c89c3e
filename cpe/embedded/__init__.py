"""The embedded model: a small, real Stable Diffusion of named pictures, and the scripts that make it."""
