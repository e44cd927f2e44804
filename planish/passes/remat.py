class Remat: pass
