module ctd

go 1.26.0
