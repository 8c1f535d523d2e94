"""Who decides: the network, rules, and what fits them to prices and questions."""
