"""How dimensions pass through operators, one family a file; a new rule is registered by `@rule("operator")`."""
