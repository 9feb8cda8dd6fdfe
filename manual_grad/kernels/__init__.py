"""The formulas again, formulated for a processor; each equal to its page in formulas/."""
