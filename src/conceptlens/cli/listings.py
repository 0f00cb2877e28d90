"""`conceptlens methods`, `conceptlens doctor --all`: tables of what there is."""

import json

from conceptlens.cli.options import Json, say, show, table
from conceptlens.values import listings


def methods(json_: Json = False) -> None:
    """List the methods that `bench` and `read --method` know."""
    if json_:
        say(json.dumps(listings.methods()))
        return
    shown = table("method", "needs", "models", "what it is")
    shown.columns[0].no_wrap = True
    shown.columns[2].overflow = "fold"
    needs = {"text_conditioned": "words", "class_conditioned": "a class", "needs_grad": "gradients"}
    for name, facts in listings.methods().items():
        models = [facts["backbone"] or "demo", *facts["zoo"]]
        shown.add_row(
            name, ", ".join(need for key, need in needs.items() if facts[key]), "\n".join(models), facts["summary"]
        )
    show(shown)


def show_served(json_: bool) -> None:
    """Prints the transformer classes that maps can be made of."""
    every = listings.transformers()
    if json_:
        say(json.dumps(every))
        return
    shown = table("transformer class", "family", "tier", "blocks", "seen", "own text", "maps")
    for facts in every:
        seen, error = f"{facts['captured']}/{facts['expected']}", f"{facts['own_text_error'] or 0:.0e}"
        row = (facts["adapter"], facts["tier"], str(facts["blocks"]), seen, error)
        shown.add_row(facts["transformer"], *row, "yes" if facts["ok"] else "no")
    show(shown)
