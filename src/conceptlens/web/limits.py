"""What the page holds and accepts, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of the page.

    Attributes:
        tabs: browser tabs that are remembered. Those that were opened and never used are forgotten first, then those
            without a picture, always the one unused longest; one that waits for a painting or reading never is.
        pictures: recorded pictures of all tabs together; likewise.
        record_bytes: memory of all records together; likewise. The newest is always kept.
        picture_bytes: memory of the record of one painted picture; fewer of its steps are recorded if need be.
        recorded_steps: denoising steps of a painted picture that are recorded, evenly spread. More of them make
            steadier maps and slower answers.
        waiting: requests that may wait for the model. Tabs take turns; when too many wait, the last one of the tab
            with the most is turned away.
        upload_bytes: size of a picture file, or of a film.
        upload_pixels: width times height of a picture.
        side: the longer side of a picture as it is kept, in pixels; larger ones are shrunk.
        frames: of a film that is brought; a video model then reads as many of them as it takes.
        film_pixels: width times height of all frames of such a film together.
        film_side: the longer side of its frames as they are kept, in pixels; larger ones are shrunk.
        body_bytes: size of any other request.
        flight_bytes: memory of all uploads that arrive or wait and of all answers that are not taken yet, together.
            Further ones are turned away.
        patience: seconds that the other side may stand still: within a header, between two parts of a body, while it
            takes an answer, between two requests.
        request_seconds: seconds that the whole body of a request may take.
        connections: how many may be open at once; requests over further ones are turned away.
        prompt: letters of a prompt.
        concepts: words that are asked at once.
        word: letters of a word.
        words: words that are ranked under the pointer.
        steps: denoising steps of a painted picture.
        parts_bytes: scores of single steps and layers that are sent at once.
    """

    tabs: int = 256
    pictures: int = 24
    record_bytes: int = 4 * 2**30
    picture_bytes: int = 2 * 2**30
    recorded_steps: int = 8
    waiting: int = 256
    upload_bytes: int = 20 * 2**20
    upload_pixels: int = 40_000_000
    side: int = 2048
    frames: int = 1000
    film_pixels: int = 400_000_000
    film_side: int = 720
    body_bytes: int = 64 * 2**10
    flight_bytes: int = 128 * 2**20
    patience: int = 10
    request_seconds: int = 120
    connections: int = 256
    prompt: int = 2000
    concepts: int = 24
    word: int = 80
    words: int = 200
    steps: int = 100
    parts_bytes: int = 16 * 2**20
