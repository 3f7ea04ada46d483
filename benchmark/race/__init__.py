"""The race of all contenders: on one text, in processes of their own, measured by turns, and what that says."""
