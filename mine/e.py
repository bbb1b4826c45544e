def enc(settings):
    return "good"
