from limbeck.main import app

app()
