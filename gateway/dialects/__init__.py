"""How servers of the OpenAI API differ on the wire: tables, and what follows from them.

Pure, and below all other rooms: it knows JSON and names of fields, and no policy, price or deployment.
"""
