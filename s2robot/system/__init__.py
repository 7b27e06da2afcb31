"""What lies under everything: files that survive a crash, optional libraries, the machine that computes."""
