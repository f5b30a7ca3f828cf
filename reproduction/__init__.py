"""Runs and what they leave, figures, and the paper's numbers beside the measured ones.

Scripts import this package before all that takes long: from here on, what goes wrong is one line.
"""

from reproduction.terminal import begin

begin()
