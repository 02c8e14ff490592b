"""Self-supervised pretraining of pathotune-tiny, the small vision transformer that ships with pathotune."""
