"""What CLIP as RNN says to CLIP: the names of backgrounds, and the sentences that queries are put into."""

from __future__ import annotations

TEMPLATE = "a clean origami {}."
BACKGROUNDS = (
    *("ground", "land", "grass", "tree", "building", "wall", "sky", "lake", "water", "river", "sea", "railway"),
    *("railroad", "helmet", "cloud", "house", "mountain", "ocean", "road", "rock", "street", "valley", "bridge"),
)
# Fifteen everyday templates. The official code has a list of fifteen of its own, so its figures may differ slightly.
SCORING_TEMPLATES = (
    *("a photo of a {}.", "a picture of a {}.", "an image of a {}.", "a photo of the {}.", "a photo of one {}."),
    *("a close-up photo of a {}.", "a cropped photo of a {}.", "a bright photo of a {}.", "a dark photo of a {}."),
    *("a good photo of a {}.", "a bad photo of a {}.", "a photo of a large {}.", "a photo of a small {}."),
    *("a rendering of a {}.", "there is a {} in the scene."),
)
