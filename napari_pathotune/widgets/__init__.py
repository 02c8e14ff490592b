"""The plugin's docks and the panels they are made of."""
