"""Abstract domains of the analysis: facts about a slice that hold before a model runs."""
