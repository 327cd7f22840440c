"""From a request to images, on this machine or on a server.

A `request.Request` is fulfilled by a `painter.Painter`: `local.LocalPainter`
with a run, or `served.ServedPainter` over the `wire`. `sheets` and
`palette_sheet` lay images out for people.
"""
