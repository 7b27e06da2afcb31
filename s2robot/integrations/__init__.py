"""The encoder inside other stacks: one file per stack, imported only by users of that stack."""
