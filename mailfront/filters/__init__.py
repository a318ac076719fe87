"""The filter chain: may this message pass, and changed how? Scanners, lists and plug-ins answer; the chain decides.

| module | what it is for |
|---|---|
| `contract` | what a filter sees and is: views, stages, `Filter`, `Kind` |
| `settings`, `registry` | `[[filter]]` tables, and the kinds that plug-ins bring |
| `chain` | asks the filters, in parallel, with their limits |
| `arbitration`, `edits` | from verdicts to one ruling per recipient; from edits to a message. Pure |
| `checked` | nothing that a filter returns is believed before it was here |
| `breaker`, `hosts` | stop calling what is dead |

The kinds stand beside them, one module or package each. Nothing here talks to clients, the queue or nodes.
"""
