"""The encoder inside the stacks people already use: one file each, imported only by whoever uses that stack."""
