"""Does the model use what a map shows? Rows of the image are replaced inside a map while the picture is painted.

`cases` are prompts with a word and the same prompts without it; `repainting` paints with rows of another painting in
place of some; `regions` turns maps into orders of rows; `runs` judges whether the word is still shown, resumably.
"""
