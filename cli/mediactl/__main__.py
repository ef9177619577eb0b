from mediactl.main import app

app()
