"""Networks composed of the formulas: lecture B's two layers, lecture D's five, lecture A's CNN, a GPT."""
