"""The live view of `glassbottom watch`: what it asks (feed), what a panel says (panels), and the screen (app)."""
