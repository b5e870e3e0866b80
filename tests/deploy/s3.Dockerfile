# Stands in for the image of VersityGW where that image cannot be pulled: docker build -f s3.Dockerfile ../support
FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends busybox && ln -s /bin/busybox /usr/bin/wget && \
    rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir "moto[s3]>=5.1" "flask>=3" "flask-cors>=5"
COPY versitygw /usr/local/bin/
