"""Small pages of our own, in each exporter's names."""

# ruff: noqa: E501

DCGM = """\
# HELP DCGM_FI_DEV_GPU_TEMP GPU temperature (in C).
# TYPE DCGM_FI_DEV_GPU_TEMP gauge
DCGM_FI_DEV_GPU_TEMP{gpu="0",UUID="GPU-a",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",hostname="n1"} 61
DCGM_FI_DEV_GPU_TEMP{gpu="1",UUID="GPU-b",device="nvidia1",modelName="NVIDIA H100 80GB HBM3",hostname="n1"} 55
DCGM_FI_DEV_MEMORY_TEMP{gpu="0",UUID="GPU-a",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",hostname="n1"} 70
DCGM_FI_DEV_SLOWDOWN_TEMP{gpu="0",UUID="GPU-a",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",hostname="n1"} 90
DCGM_FI_DEV_MEM_MAX_OP_TEMP{gpu="0",UUID="GPU-a",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",hostname="n1"} 95
DCGM_FI_DEV_GPU_TEMP_LIMIT{gpu="0",UUID="GPU-a",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",hostname="n1"} 26
DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-a",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",hostname="n1"} 402.5
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="0",UUID="GPU-a",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",hostname="n1"} 1000000
DCGM_FI_DEV_ENFORCED_POWER_LIMIT{gpu="0",UUID="GPU-a",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",hostname="n1"} 650
DCGM_FI_DEV_FB_USED{gpu="0",UUID="GPU-a",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",hostname="n1"} 1000
DCGM_FI_DEV_FB_FREE{gpu="0",UUID="GPU-a",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",hostname="n1"} 80000
DCGM_FI_DEV_FB_RESERVED{gpu="0",UUID="GPU-a",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",hostname="n1"} 559
DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-a",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",hostname="n1"} 97
DCGM_FI_DEV_XID_ERRORS{gpu="0",UUID="GPU-a",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",hostname="n1",err_code="79",err_msg="fell off"} 79
"""

AMD = """\
amd_gpu_package_power{gpu_id="0",serial_number="S1",card_model="AMD Instinct MI300X OAM",hostname="n2",gpu_partition_id="0"} 512
amd_gpu_package_power{gpu_id="1",serial_number="S1",card_model="AMD Instinct MI300X OAM",hostname="n2",gpu_partition_id="1"} 0
amd_gpu_junction_temperature{gpu_id="0",serial_number="S1",card_model="AMD Instinct MI300X OAM",gpu_partition_id="0"} 66
amd_gpu_edge_temperature{gpu_id="0",serial_number="S1",card_model="AMD Instinct MI300X OAM",gpu_partition_id="0"} 0
amd_gpu_memory_temperature{gpu_id="0",serial_number="S1",card_model="AMD Instinct MI300X OAM",gpu_partition_id="0"} 51
amd_gpu_hbm_temperature{gpu_id="0",serial_number="S1",gpu_partition_id="0",hbm_index="0"} 55
amd_gpu_hbm_temperature{gpu_id="0",serial_number="S1",gpu_partition_id="0",hbm_index="1"} 53
amd_gpu_total_vram{gpu_id="0",serial_number="S1",gpu_partition_id="0"} 196592
amd_gpu_used_vram{gpu_id="0",serial_number="S1",gpu_partition_id="0"} 283
amd_gpu_gfx_activity{gpu_id="0",serial_number="S1",gpu_partition_id="0"} 40
amd_gpu_health{gpu_id="0",serial_number="S1",gpu_partition_id="0"} 1
amd_gpu_violation_ppt_residency_percentage{gpu_id="0",serial_number="S1",gpu_partition_id="0"} 3
amd_gpu_violation_socket_thermal_residency_percentage{gpu_id="0",serial_number="S1",gpu_partition_id="0"} 0
"""

XPUM = """\
# HELP xpum_engine_ratio GPU active time of the elapsed time (in %), per GPU tile
xpum_engine_ratio{uuid="U1",dev_file="card0",dev_name="Intel(R) Data Center GPU Max 1550",sub_dev="0"} 0.5
xpum_engine_ratio{uuid="U1",dev_file="card0",dev_name="Intel(R) Data Center GPU Max 1550",sub_dev="1"} 0.75
xpum_power_watts{uuid="U1",dev_file="card0",dev_name="Intel(R) Data Center GPU Max 1550"} 330.5
xpum_power_watts{uuid="U1",dev_file="card0",sub_dev="0"} 160
xpum_temperature_celsius{uuid="U1",dev_file="card0",location="gpu",sub_dev="0"} 48
xpum_temperature_celsius{uuid="U1",dev_file="card0",location="gpu",sub_dev="1"} 52
xpum_temperature_celsius{uuid="U1",dev_file="card0",location="mem",sub_dev="0"} 44
xpum_memory_used_bytes{uuid="U1",dev_file="card0",sub_dev="0"} 1000000000
xpum_memory_used_bytes{uuid="U1",dev_file="card0",sub_dev="1"} 2000000000
"""

HW = """\
hw_power_watts{hw_id="0000:4d:00.0",hw_name="Max 1550",pci_bdf="0000:4d:00.0"} 220
hw_temperature_celsius{hw_id="t0",pci_bdf="0000:4d:00.0",hw_sensor_location="gpu"} 41
hw_temperature_celsius{hw_id="t1",pci_bdf="0000:4d:00.0",hw_sensor_location="memory"} 39
hw_gpu_utilization_ratio{hw_id="g",pci_bdf="0000:4d:00.0",hw_gpu_task="compute"} 0.25
hw_gpu_memory_limit_bytes{hw_id="g",pci_bdf="0000:4d:00.0"} 128000000000
hw_memory_utilization_ratio{hw_id="m",pci_bdf="0000:4d:00.0"} 0.5
hw_status{hw_id="g",pci_bdf="0000:4d:00.0",hw_state="ok"} 0
hw_status{hw_id="g",pci_bdf="0000:4d:00.0",hw_state="failed"} 1
"""

GAUDI = """\
habanalabs_power_mW{UUID="01P0-x",device="accel3",modelName="HL-325L"} 431500
habanalabs_power_default_limit_mW{UUID="01P0-x",device="accel3",modelName="HL-325L"} 900000
habanalabs_temperature_onchip{UUID="01P0-x",device="accel3",modelName="HL-325L"} 52
habanalabs_temperature_onboard{UUID="01P0-x",device="accel3",modelName="HL-325L"} 40
habanalabs_temperature_threshold_slowdown{UUID="01P0-x",device="accel3",modelName="HL-325L"} 99
habanalabs_temperature_threshold_shutdown{UUID="01P0-x",device="accel3",modelName="HL-325L"} 110
habanalabs_memory_total_bytes{UUID="01P0-x",device="accel3",modelName="HL-325L"} 137438953472
habanalabs_memory_used_bytes{UUID="01P0-x",device="accel3",modelName="HL-325L"} 1073741824
habanalabs_utilization{UUID="01P0-x",device="accel3",modelName="HL-325L"} 35
"""

SAMBANOVA = """\
sambanova_tile_aload_percent{xrdu="0",rdu="0",tile="0"} 20
sambanova_tile_aload_percent{xrdu="0",rdu="0",tile="1"} 40
sambanova_tile_aload_percent{xrdu="0",rdu="1",tile="0"} 100
sambanova_platform_error_count 3
"""

XRDU = """\
xrdu_up 1
xrdu_temperature_celsius{sensor="inlet"} 23.5
xrdu_temperature_celsius{sensor="rdu0_core"} 61
xrdu_temperature_celsius{sensor="rdu1_core"} 58
xrdu_fan_rpm{fan="1"} 9000
"""

HOST = """\
node_cpu_seconds_total{cpu="0",mode="idle"} 100
node_cpu_seconds_total{cpu="0",mode="user"} 50
node_cpu_seconds_total{cpu="0",mode="guest"} 50
node_cpu_seconds_total{cpu="1",mode="idle"} 100
node_cpu_seconds_total{cpu="1",mode="iowait"} 10
node_hwmon_chip_names{chip="platform_coretemp_0",chip_name="coretemp"} 1
node_hwmon_temp_celsius{chip="platform_coretemp_0",sensor="temp1"} 47
node_hwmon_temp_celsius{chip="nvme_nvme0",sensor="temp1"} 71
node_hwmon_temp_crit_celsius{chip="platform_coretemp_0",sensor="temp1"} 100
node_rapl_package_joules_total{index="0",path="p0"} 1000
node_rapl_package_joules_total{index="1",path="p1"} 2000
node_memory_MemTotal_bytes 1.0e+11
node_memory_MemAvailable_bytes 6.0e+10
node_boot_time_seconds 1.7e+09
"""

HTML = "<!DOCTYPE html>\n<html><body>It works! DCGM_FI_DEV_GPU_TEMP</body></html>\n"
