class C:
    unprotected = []


def coverage(b):
    return C
