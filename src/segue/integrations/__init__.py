"""Names that other clients of TGI have, over Segue's client. Each module stands alone; none is imported from here."""
