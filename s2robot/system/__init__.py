"""The lowest layer: files that survive a crash, optional libraries, choices by name, facts about the machine."""
