"""The one HTTP port: reads only; an action writes a row that the loop acts on."""
