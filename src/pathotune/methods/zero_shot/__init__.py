"""Zero-shot: tiles are what their image–text model finds them most like in words; nothing is trained."""
