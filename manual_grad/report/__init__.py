"""The lecture book: a static site with every equation, its code, its proof and its picture.

Nothing here imports the console script; ``manual-grad report`` is in :mod:`manual_grad.cli.report`. The extra
``report`` installs what it needs (Jinja2, latex2mathml, Pygments).
"""
