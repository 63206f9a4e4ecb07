"""Page: one file of HTML that people mail, print and open from a build server: no script, no font, nothing from elsewhere, light and dark.

Used by `report` and by `audit`; knows neither.  The files:

    frame    a whole page: its head, its policy, its sections
    table    tables that scroll by themselves, with numbers to the right
    drawing  the pieces of drawings that several pages have: SVG
    element  elements of a page, their text escaped
"""
