"""The formulas rewritten to run fast on a processor, each with the same result as its page in formulas/."""
