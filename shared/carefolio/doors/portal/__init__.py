"""The web portal: what a browser asks for, and the pages that it gets. No SQL and no rule: the library has both."""
