"""How well a video model's maps follow things: moving storybook scenes, whose every pixel and object is known.

`cases.py` draws the films, `measuring.py` turns one film into figures, `runs.py` measures many into rows, `report.py`
says what the rows say together.
"""
