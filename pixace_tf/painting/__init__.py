"""From a request to images, on this machine or on a server.

`request.Request` is what a user asks for; `painter.Painter` is who fulfills
it: `local.LocalPainter` with a run, `served.ServedPainter` over the `wire`.
`sheets` and `palette_sheet` lay images out for people.
"""
