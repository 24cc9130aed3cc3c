"""Tables, metrics and the HTML page."""
