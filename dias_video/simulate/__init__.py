"""Simulates videos with PyBullet's physics and CPU renderer, and writes files for ``dias_video.data.simulated``.

``scene`` has the data of a scene (bodies, camera, light; without PyBullet). ``world`` moves and draws scenes. ``toss``,
``contact`` and ``surprise`` make scenes. ``writer`` makes a data set of them on all cores.
"""
