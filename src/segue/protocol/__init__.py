"""The schemas of the wire, shared by server and client; pydantic lives here and nowhere further in."""
