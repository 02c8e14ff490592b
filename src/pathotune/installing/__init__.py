"""How the program comes onto a computer: a folder that installs without internet, and a start icon."""
