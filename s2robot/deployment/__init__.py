"""Use a trained policy outside this package: export it to a file, or serve it to a robot on another computer."""
