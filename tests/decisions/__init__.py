"""`make decisions`: Keld's decisions, its rivals' and a clairvoyant's, over the same weeks of providers."""
