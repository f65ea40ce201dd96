# One image for all processes of the demo: web servers (the default command) and manage.py.
FROM python:3.13-slim

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1

WORKDIR /app

# The wheels of confluent-kafka contain librdkafka, so no compiler and no system library is needed.
COPY pyproject.toml README.md LICENSE ./
COPY kafka_layer kafka_layer
RUN pip install --no-cache-dir ".[demo]"

COPY manage.py ./
COPY demo_project demo_project

RUN useradd --create-home demo
USER demo

EXPOSE 8000
CMD ["daphne", "--bind", "0.0.0.0", "--port", "8000", "demo_project.asgi:application"]
