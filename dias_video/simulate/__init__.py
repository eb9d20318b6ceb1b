"""Simulated videos: PyBullet physics, its CPU renderer, and the files that ``dias_video.data.simulated`` reads.

``scene`` says what a scene is (bodies, camera, light; plain data, no PyBullet), ``world`` moves and draws it, ``toss``,
``contact`` and ``surprise`` invent scenes, ``writer`` turns them into a data set on all cores.
"""
