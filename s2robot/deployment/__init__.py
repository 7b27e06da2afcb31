"""A trained policy outside this package: exported as a file, or served to a robot on another computer."""
