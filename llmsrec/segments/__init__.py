"""LLM-SRec over item segments: each item is read alone, and one token reads out a user's items.

    "TITLE",  slot(item)  readout(item)         of an item, once
    slot  slot  …  slot  readout(user)          of a user

A segment attends to itself alone, so what its slot leaves behind in each layer is the same for
every user. A user's readout is one token that attends to the slots of the user's items, and to
itself. Nothing is approximated: training uses the same attention.
"""
