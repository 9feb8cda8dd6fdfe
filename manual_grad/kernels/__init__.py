"""The formulas again, in ways that suit a processor; each gives the same result as its page in formulas/."""
