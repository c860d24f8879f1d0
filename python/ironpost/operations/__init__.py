"""Operations that operators run on a server or its data directory, and the control socket that carries them."""
