"""From ``results.json`` to what people read: tables, plots, a page to listen to."""
