"""Named entities, recognised in a process of their own: models take 150 ms and more, and may crash or hang.

stage = EntityStage(RecognizerSettings(...), counted)
stage.start()
await stage.find("Ada Lovelace lives here")   # EntityResult.FOUND, or why that cannot be said
await stage.close()
"""
