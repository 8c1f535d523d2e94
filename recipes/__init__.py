"""How the bundled models and the figures about them were made; runs in a checkout only."""
