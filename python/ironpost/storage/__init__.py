"""Where mail rests: implementations of the store port (`queue.store`). `sqlite` is durable, `memory` is not."""
